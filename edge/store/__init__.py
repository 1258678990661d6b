"""The hub's replay buffer: append-only, sealed, tamper-evident, durable on return (docs/store-format.md)."""
