"""What a report of a workspace knows (`facts`), and its four forms."""
