"""What a run holds, and every rate made from it; no torch."""
