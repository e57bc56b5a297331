"""From a trained model to a bundle: distillation, pruning, quantization, export."""
