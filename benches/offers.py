#!/usr/bin/env python3
"""How long shopping takes: ours and others', against the same server in the same run.

Six marketplaces on loopback, Vast.ai with 3,000 offers, each answering a request after the time
below. Every command is run once a round, in turn, so that whatever else the computer does
hits all of them; the table shows medians.

    benches/offers.py [--rounds N] [--offers N]

Needs Python with venv and a package index, for the other clients.
"""

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "clients"))
import run as clients  # noqa: E402

# Milliseconds until a request is answered. Some marketplaces are asked several times.
ANSWER = {"vast": 400, "runpod": 200, "lambda": 250, "verda": 150, "shadeform": 300, "prime": 350}

KEYS = (
    "VAST_API_KEY RUNPOD_API_KEY LAMBDA_API_KEY VERDA_CLIENT_ID VERDA_CLIENT_SECRET"
    " SHADEFORM_API_KEY PRIME_API_KEY"
).split()

BARE = "Vast's answer alone, by no client"

GPUHUNT = """
import sys
from gpuhunt.providers import vastai
vastai.bundles_url = sys.argv[1] + "/api/v0/bundles/"
print(len(vastai.VastAIProvider().get()))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--offers", type=int, default=3000)
    options = parser.parse_args()
    python = clients.prepare(ROOT / "target" / "clients-venv")
    if not python:
        sys.exit("the other clients can't be installed here")
    build("-p", "piecework", "--bin", "piecework")
    build("-p", "providers", "--features", "testkit", "--bin", "fakecloud")
    release = ROOT / "target" / "release"
    server = subprocess.Popen(
        [release / "fakecloud", "--no-machines", "--offers", str(options.offers)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        addresses = json.loads(server.stdout.readline())
        slow_down(addresses)
        with tempfile.TemporaryDirectory() as home:
            environment = environment_of(addresses, home, python.parent)
            commands = commands_of(release / "piecework", addresses, python)
            show(measure(commands, environment, addresses, options.rounds))
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=30)
    return 0


def build(*what: str) -> None:
    subprocess.run(["cargo", "build", "--quiet", "--release", *what], cwd=ROOT, check=True)


def slow_down(addresses: dict) -> None:
    """Lets every marketplace take its time, as often as it is asked."""
    plan = [
        {"provider": name, "times": 1_000_000, "fault": {"slow": {"millis": millis}}}
        for name, millis in ANSWER.items()
    ]
    request = urllib.request.Request(
        addresses["world"] + "/faults", json.dumps(plan).encode(), method="PUT"
    )
    urllib.request.urlopen(request, timeout=10).close()


def environment_of(addresses: dict, home: str, programs: pathlib.Path) -> dict:
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": home, "LANG": "C.UTF-8"}
    environment["PIECEWORK_HOME"] = home
    for name in ANSWER:
        environment[f"PIECEWORK_{name.upper()}_URL"] = addresses[name]
    environment.update({key: addresses["key"] for key in KEYS})
    environment["VAST_URL"] = addresses["vast"]
    return environment


def commands_of(ours: pathlib.Path, addresses: dict, python: pathlib.Path) -> dict:
    """What is run, by how it is called in the table."""
    offers = [ours, "offers", "--vram", "24GB"]
    commands = {"piecework --help": [ours, "--help"]}
    for name in ANSWER:
        commands[f"piecework offers, {name} alone"] = [*offers, "--provider", name]
    commands["piecework offers, all six"] = offers
    query = ["gpu_ram>=24", "--limit", "5000"]
    commands["vastai search offers"] = ["vastai", "search", "offers", *query]
    commands["gpuhunt, its Vast query"] = [python, "-c", GPUHUNT, addresses["vast"]]
    return commands


def bare_request(address: str) -> None:
    """Vast.ai's own answer and nothing else: 3,000 offers, read to the end."""
    query = {"type": "ondemand", "limit": 5000, "allocated_storage": 64}
    headers = {"Content-Type": "application/json", "User-Agent": "bench"}
    address += "/api/v0/bundles/"
    request = urllib.request.Request(address, json.dumps(query).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()


def measure(commands: dict, environment: dict, addresses: dict, rounds: int) -> dict:
    """Seconds of each command, round by round."""
    taken = {name: [] for name in (BARE, *commands)}
    for _ in range(rounds):
        began = time.monotonic()
        bare_request(addresses["vast"])
        taken[BARE].append(time.monotonic() - began)
        for name, command in commands.items():
            began = time.monotonic()
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            taken[name].append(time.monotonic() - began)
            if done.returncode != 0 or "warning" in done.stderr:
                sys.exit(f"{name} failed: {done.stderr}")
    return taken


def show(taken: dict) -> None:
    medians = {name: statistics.median(times) for name, times in taken.items()}
    print(f"{'':34} {'median':>9} {'fastest':>9} {'slowest':>9}")
    for name, times in taken.items():
        row = (medians[name], min(times), max(times))
        print(f"{name:34}" + "".join(f" {seconds * 1000:6.0f} ms" for seconds in row))
    together = medians["piecework offers, all six"]
    print(f"all six take {together / medians[BARE]:.2f} times as long as Vast's answer alone")
    for name in ("vastai search offers", "gpuhunt, its Vast query"):
        print(f"{name}: {medians[name] / together:.2f} times as long as all six of ours")


if __name__ == "__main__":
    sys.exit(main())
