"""What the HTML pages of every verb share, and the words that pages and the command line have in common."""


def duration(seconds: float) -> str:
    """Seconds as people say them: 48 s, 3 min 20 s, 5 h 02 min."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 6000:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
