"""What is measured while a training runs: retrieval, k-NN, how far features spread."""
