"""Networks and the classical baseline, all behind the one Segmenter contract."""
