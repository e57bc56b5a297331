"""Batch prediction: a model over a Parquet file or a folder, one row of Parquet for each input, resumable.

`edge_sdk.cloud.batch.run.predict_batch` goes through the rows of a source (`sources`), lets a model answer them
(`answering`), and keeps what is done in parts that become one file at the end (`parts`).
"""

from __future__ import annotations

from edge_sdk.cloud.batch.run import Summary, predict_batch

__all__ = ["Summary", "predict_batch"]
