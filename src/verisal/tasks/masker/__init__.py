"""Training and judgement of the network that predicts hierarchical masks."""
