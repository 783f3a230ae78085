#!/usr/bin/env python3
"""Two queues from PyPI, as peers of pgtrain's: procrastinate and pgqueuer. Called by submit.sh and latency.sh with PGHOST and
PGUSER set; each peer has a database of its own name.
    peers.py install FOLDER        makes both databases and writes FOLDER/NAME.sql, a pgbench script that enqueues one job
    peers.py latency NAME COUNT    one job at a time: prints the milliseconds from the call that enqueues to the task's begin
"""
import asyncio
import importlib.metadata
import logging
import os
import random
import sys
import time

import asyncpg
import procrastinate
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries

PAYLOAD = '{"size": "nano", "steps": 100, "learning_rate": 0.001}'


async def connect(database):
    return await asyncpg.connect(host=os.environ["PGHOST"], user=os.environ["PGUSER"], database=database)


def procrastinate_app():
    info = f"host={os.environ['PGHOST']} user={os.environ['PGUSER']} dbname=procrastinate"
    # It warns of apps made in a main program, which matters to imports of tasks only.
    logging.getLogger("procrastinate").setLevel(logging.ERROR)
    return procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=info))


async def install(folder):
    postgres = await connect("postgres")
    for name in ("procrastinate", "pgqueuer"):
        await postgres.execute(f"create database {name}")
    await postgres.close()

    app = procrastinate_app()
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
    with open(f"{folder}/procrastinate.sql", "w") as script:
        script.write("select unnest(procrastinate_defer_jobs_v1(array[row('default', 'run', 0, null, null, "
                     f"'{PAYLOAD}', null)::procrastinate_job_to_defer_v1])) as id;\n")

    connection = await connect("pgqueuer")
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    statement = " ".join(line for line in queries.qbq.build_enqueue_query().splitlines() if not line.strip().startswith("--"))
    values = ["array[0]", "array['run']", f"array['{PAYLOAD}'::bytea]", "array['0 s'::interval]", "array[null]", "array[null]"]
    for number in range(6, 0, -1):
        statement = statement.replace(f"${number}::", f"({values[number - 1]})::")
    with open(f"{folder}/pgqueuer.sql", "w") as script:
        script.write(statement.strip() + ";\n")
    await connection.close()
    for name in ("procrastinate", "pgqueuer"):
        print(f"peer: {name} {importlib.metadata.version(name)}")


async def measure(count, submit, started):
    """submit() enqueues; the task puts its begin into the queue `started`."""
    await asyncio.sleep(2)
    for number in range(count + 20):
        begin = time.perf_counter()
        await submit()
        milliseconds = (await asyncio.wait_for(started.get(), 30) - begin) * 1000
        if number >= 20:
            print(f"{milliseconds:.3f}")
        await asyncio.sleep(0.005 + random.random() * 0.02)


async def latency_procrastinate(count):
    app = procrastinate_app()
    started = asyncio.Queue()

    @app.task(name="run")
    async def run(**_):
        started.put_nowait(time.perf_counter())

    async with app.open_async():
        worker = asyncio.create_task(app.run_worker_async(install_signal_handlers=False))
        await measure(count, lambda: run.defer_async(steps=100), started)
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


async def latency_pgqueuer(count):
    worker_connection, client_connection = await connect("pgqueuer"), await connect("pgqueuer")
    started = asyncio.Queue()
    application = PgQueuer(AsyncpgDriver(worker_connection))

    @application.entrypoint("run")
    async def run(_):
        started.put_nowait(time.perf_counter())

    queries = Queries(AsyncpgDriver(client_connection))
    worker = asyncio.create_task(application.run())
    await measure(count, lambda: queries.enqueue("run", PAYLOAD.encode()), started)
    application.shutdown.set()
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "install":
        asyncio.run(install(sys.argv[2]))
    elif len(sys.argv) == 4 and sys.argv[1] == "latency":
        peers = {"procrastinate": latency_procrastinate, "pgqueuer": latency_pgqueuer}
        asyncio.run(peers[sys.argv[2]](int(sys.argv[3])))
    else:
        sys.exit(__doc__)
