"""From a model and a corpus to a trained model: enter here to ask what a step does and how a run resumes."""
