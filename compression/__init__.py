"""From a trained model to a bundle: distillation, pruning, quantization, export.

`pipeline.compress` does all of it; `pipeline.export_teacher` packs the teacher for the cloud.
"""
