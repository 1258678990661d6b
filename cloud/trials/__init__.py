"""In-silico trials: a plan in, simulated people, a report out (``hometwin trial``)."""
