"""Files on disk: enter here to ask how one is read without trust, and written whole or not at all."""
