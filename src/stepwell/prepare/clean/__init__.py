"""Clean: what must hold of a table, what to do where it does not, and what no rule says but the data shows.

Everything here is a function over Arrow tables or arrays and can be used alone.
"""
