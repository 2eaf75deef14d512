"""From raw tables to training data: integrate, clean, extract, label, compress, select.

Every part can be used alone, over Arrow tables and arrays; `Preparation` puts them into one lazy, versioned pipeline.
"""
