"""Files on disk: enter here to ask how one is read without being believed, and written whole or not at all."""
