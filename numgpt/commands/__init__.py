"""The command line, one file for each subcommand: enter here to ask what a flag does or a command prints."""
