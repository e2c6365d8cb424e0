"""Who may do what in the embedded PostgreSQL: the service's role owns its database and is no superuser.

The statements are for single-user mode, which needs no password and takes one statement to a line.
"""

SUPERUSER = "tunesmith"  # made by initdb; nobody can connect as it
SERVICE = "tunesmith_service"

# Only the socket is there to connect to; `reject` comes first, so a password of the superuser's would not help.
HOST_BASED_AUTHENTICATION = f"local all {SUPERUSER} reject\nlocal all all scram-sha-256\n"

_MAKE_ROLE = (
    "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN CREATE ROLE {role}; END IF; END $$"
)
# What an installation from before there was such a role has made as superuser.
_TAKE_OVER = (
    "DO $$ DECLARE thing record; BEGIN "
    "FOR thing IN SELECT c.oid::regclass AS name FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace "
    "AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid "
    "AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')) "
    "LOOP EXECUTE format('ALTER TABLE %s OWNER TO {role}', thing.name); END LOOP; "
    "FOR thing IN SELECT oid::regprocedure AS name FROM pg_proc WHERE pronamespace = 'public'::regnamespace "
    "LOOP EXECUTE format('ALTER ROUTINE %s OWNER TO {role}', thing.name); END LOOP; "
    "FOR thing IN SELECT oid::regtype AS name FROM pg_type WHERE typnamespace = 'public'::regnamespace "
    "AND typtype IN ('e', 'd') LOOP EXECUTE format('ALTER TYPE %s OWNER TO {role}', thing.name); END LOOP; "
    "END $$"
)


def role_statements(*, password: str, for_tests: bool) -> list[str]:
    """Make the service's role, or give it this password. That of tests may make databases and empty tables quickly."""
    may = "CREATEDB" if for_tests else "NOCREATEDB"
    more = [f"GRANT SET ON PARAMETER session_replication_role TO {SERVICE}"] if for_tests else []
    return [
        _MAKE_ROLE.format(role=SERVICE),
        f"ALTER ROLE {SERVICE} LOGIN NOSUPERUSER NOCREATEROLE NOREPLICATION NOBYPASSRLS {may} PASSWORD '{password}'",
        *more,
    ]


def database_statement(database: str) -> str:
    """Make its database."""
    return f"CREATE DATABASE {database} OWNER {SERVICE}"


def take_over_statements(database: str) -> list[str]:
    """In a database that the superuser has made: everything becomes the service's."""
    return [f"ALTER DATABASE {database} OWNER TO {SERVICE}", _TAKE_OVER.format(role=SERVICE)]
