"""The joint word and character language model: data contract, network, training, evaluation, export."""
