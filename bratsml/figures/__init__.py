"""Arrays and tables in, pictures out."""
