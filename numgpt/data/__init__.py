"""From text files to batches of tokens: enter here to ask what a run trains on, and what it holds out."""
