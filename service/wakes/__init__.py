"""Wake-ups over HTTP, for workers that reach no broker: counted in the database, waited for in the process."""
