"""One file per verb; each holds the function that `edgekit.<verb>` and the command call."""
