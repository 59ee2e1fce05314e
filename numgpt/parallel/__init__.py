"""Several processes on one model: data, tensor, sequence and pipeline parallelism."""
