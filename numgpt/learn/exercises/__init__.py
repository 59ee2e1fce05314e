"""The exercises, a file each, in the order of the lessons."""

NAMES = {
    "numerical_grad": "1",
    "linear": "2",
    "cross_entropy": "3",
    "softmax": "4",
    "gelu_tanh": "5a",
    "gelu_erf": "5b",
    "layernorm": "6",
    "embedding": "7",
    "residual": "8",
    "attention": "9",
    "multihead": "10",
    "tied": "11",
    "adamw": "12",
    "rmsnorm": "13",
    "swiglu": "14",
    "rope": "15",
    "dropout": "16",
    "accumulation": "17",
    "hvp": "18",
}  # name of the file → number of the lesson
