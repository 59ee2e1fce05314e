"""From files to batches of tokens: enter here to ask what is trained on, and what is held out."""
