"""The command line, a file a subcommand: enter here to ask what a flag does, and what a command prints."""
