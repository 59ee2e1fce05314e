"""What numgpt itself is held to: enter here to ask what is checked, and which share of faults is caught."""
