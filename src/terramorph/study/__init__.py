"""Many runs beside each other: what to change, and what each change is worth."""
