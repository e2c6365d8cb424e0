"""Wake-ups over HTTP, for workers that reach no broker: counted in the database, waited for in the process.

Like messages of the broker they are hints: what there is to do, a claim decides.
"""
