"""From a model and a corpus to a trained model: enter here to ask what happens in a step, and how a run
resumes.
"""
