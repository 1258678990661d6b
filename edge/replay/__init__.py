"""The on-device pipeline over a recording: what the hub would have said at each moment, scored and shown."""
