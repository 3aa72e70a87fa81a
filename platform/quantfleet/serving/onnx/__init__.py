"""Torch models as ONNX graphs: written by `export_onnx`, answered by ONNX Runtime."""

from quantfleet.serving.onnx.export import ExportedGraph, export_onnx
from quantfleet.serving.onnx.runtime import OnnxStreams, OnnxWindows

__all__ = ["ExportedGraph", "OnnxStreams", "OnnxWindows", "export_onnx"]
