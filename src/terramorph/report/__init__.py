"""What the HTML pages of every verb share."""
