"""The training pipeline and the `charloom` command."""
