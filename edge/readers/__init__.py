"""Recordings of real people, as their tools export them: bytes in, samples in time order out."""

from edge.readers.read import read_record
from edge.readers.record import Record

__all__ = ["Record", "read_record"]
