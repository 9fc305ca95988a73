"""Where a result comes from: its identities, the code, the machine; results of older versions."""
