"""Ways into hubdist from code that people have already: each module serves one library, and is imported by its users.

Nothing here is imported by the rest of hubdist, and nothing of those libraries is imported before it is asked for.
"""
