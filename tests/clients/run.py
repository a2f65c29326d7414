#!/usr/bin/env python3
"""Is the fake cloud true? The marketplaces' own clients, unchanged, say so or fail.

Each client searches, rents, looks and releases against fakecloud. What it saw is compared with
the truth at /world; any difference, and any error of a client, fails the run. gpuhunt, which is
nobody's own client, prices the same offers as a third opinion.

    tests/clients/run.py [--fakecloud PROGRAM] [--venv FOLDER]
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CLIENTS = ("vastai", "runpod", "verda", "prime", "gpuhunt")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fakecloud", type=pathlib.Path)
    parser.add_argument("--venv", type=pathlib.Path, default=ROOT / "target" / "clients-venv")
    parser.add_argument("--client", choices=CLIENTS, help=argparse.SUPPRESS)
    parser.add_argument("--addresses", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        check(options.client, json.loads(options.addresses))
        return 0
    python = prepare(options.venv)
    if not python:
        print(f"skipped: {', '.join(CLIENTS)}: they can't be installed here", flush=True)
        return 0
    fakecloud = options.fakecloud or build()
    failed = []
    with tempfile.TemporaryDirectory() as home:
        server = subprocess.Popen(
            [fakecloud, "--no-machines"], stdout=subprocess.PIPE, text=True
        )
        try:
            addresses = server.stdout.readline()
            for client in CLIENTS:
                environment = {"PATH": f"{python.parent}:{os.environ['PATH']}", "HOME": home}
                command = [python, __file__, "--client", client, "--addresses", addresses]
                done = subprocess.run(command, env=environment, timeout=120)
                if done.returncode != 0:
                    failed.append(client)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=30)
    print(f"failed: {', '.join(failed)}" if failed else "every client agrees with the truth")
    return 1 if failed else 0


def prepare(folder: pathlib.Path) -> pathlib.Path | None:
    """The Python of an environment that has the clients, made if it isn't there.

    None where Python can't make one, or no package index is in reach.
    """
    python = folder / "bin" / "python"
    wanted = (HERE / "requirements.txt").read_text()
    mark = folder / "requirements.txt"
    if not mark.exists() or mark.read_text() != wanted:
        make = [sys.executable, "-m", "venv", folder]
        install = [python, "-m", "pip", "install", "--quiet", "-r", HERE / "requirements.txt"]
        if subprocess.run(make).returncode or subprocess.run(install).returncode:
            return None
        mark.write_text(wanted)
    return python


def build() -> pathlib.Path:
    # As the tests are built: with other features all that it stands on would be built once more.
    build = ["cargo", "build", "--workspace", "--all-features", "--locked", "--bin", "fakecloud"]
    subprocess.run(build, cwd=ROOT, check=True)
    return ROOT / "target" / "debug" / "fakecloud"


def check(client: str, addresses: dict) -> None:
    bench = Bench(client, addresses)
    {
        "vastai": vastai,
        "runpod": runpod,
        "verda": verda,
        "prime": prime,
        "gpuhunt": gpuhunt,
    }[client](bench)


class Bench:
    """One client's conversation, and the truth beside it."""

    def __init__(self, client: str, addresses: dict):
        self.client = client
        self.addresses = addresses
        self.key = addresses["key"]

    def saw(self, asked: str, saw: object) -> None:
        print(f"{self.client:8} {asked:34} {saw}", flush=True)

    def truth(self, provider: str) -> dict:
        with urllib.request.urlopen(self.addresses["world"], timeout=10) as world:
            return json.load(world)[provider]

    def rental(self, provider: str, label: str) -> dict:
        found = [r for r in self.truth(provider)["rentals"] if r["label"] == label]
        self.same("rentals of this label", len(found), 1)
        return found[0]

    def released(self, provider: str, label: str) -> None:
        rental = self.rental(provider, label)
        self.same("who ended it", rental["ended_by"], "account")
        self.same("still billed", self.truth(provider)["billed"], 0)

    def same(self, what: str, seen: object, true: object) -> None:
        near = isinstance(true, float) and abs(float(seen) - true) < 0.00005
        if not near and seen != true:
            sys.exit(f"{self.client}: {what}: saw {seen!r}, the truth is {true!r}")

    def run(self, *command: str, **environment: str) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60
        )
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} failed: {done.stdout}{done.stderr}")
        return done.stdout


def vastai(bench: Bench) -> None:
    label = "clients-vastai"
    environment = {"VAST_URL": bench.addresses["vast"], "VAST_API_KEY": bench.key}

    def ask(*words: str) -> object:
        return json.loads(bench.run("vastai", *words, "--raw", **environment))

    offers = ask("search", "offers", "gpu_name=RTX_4090 num_gpus=1", "-o", "dph", "--storage", "40")
    cheapest = min(offers, key=lambda offer: offer["dph_total"])
    bench.saw("search offers", f"{len(offers)} RTX 4090, from ${cheapest['dph_total']:.4f}/h")
    bench.same("the GPU", {offer["gpu_name"] for offer in offers}, {"RTX 4090"})
    offer = str(cheapest["id"])
    image = "nvidia/cuda:12.8.1-base-ubuntu24.04"
    words = ["--image", image, "--disk", "40", "--label", label, "--ssh", "--direct"]
    created = ask("create", "instance", offer, *words)
    rental = bench.rental("vast", label)
    bench.saw("create instance", f"contract {created['new_contract']}")
    bench.same("the contract", str(created["new_contract"]), rental["id"])
    bench.same("the price", cheapest["dph_total"], rental["price_per_hour"])
    shown = ask("show", "instances")
    bench.same("instances", [str(instance["id"]) for instance in shown], [rental["id"]])
    bench.same("the label", shown[0]["label"], label)
    bench.same("the price", shown[0]["dph_total"], rental["price_per_hour"])
    bench.saw("show instances", f"{shown[0]['label']} is {shown[0]['actual_status']}")
    one = ask("show", "instance", rental["id"])
    bench.same("the image", one["image_uuid"], rental["image"])
    address = bench.run("vastai", "ssh-url", rental["id"], **environment).strip()
    bench.saw("ssh-url", address)
    user = ask("show", "user")
    bench.saw("show user", f"${user['credit']} of credit")
    bench.run("vastai", "destroy", "instance", rental["id"], "-y", **environment)
    bench.released("vast", label)
    bench.same("instances", ask("show", "instances"), [])
    bench.saw("destroy instance", "nothing is left")


def runpod(bench: Bench) -> None:
    os.environ["RUNPOD_API_BASE_URL"] = bench.addresses["runpod"]
    os.environ["RUNPOD_API_KEY"] = bench.key
    import runpod as client

    client.api_key = bench.key
    label = "clients-runpod"
    kind = "NVIDIA GeForce RTX 4090"
    gpus = client.get_gpus()
    memory = {gpu["id"]: gpu["memoryInGb"] for gpu in gpus}
    bench.saw("get_gpus", f"{len(gpus)} kinds")
    bench.same("the memory", memory[kind], 24)
    one = client.get_gpu(kind)
    bench.saw("get_gpu", f"${one['securePrice']}/h secure, ${one['communityPrice']}/h community")
    pod = client.create_pod(label, "runpod/base:1.0", kind, container_disk_in_gb=40)
    rental = bench.rental("runpod", label)
    bench.saw("create_pod", pod["id"])
    bench.same("the pod", pod["id"], rental["id"])
    pods = client.get_pods()
    bench.same("pods", [pod["id"] for pod in pods], [rental["id"]])
    bench.same("the label", pods[0]["name"], label)
    bench.same("the price", pods[0]["costPerHr"], rental["price_per_hour"])
    bench.saw("get_pods", f"{pods[0]['name']} at ${pods[0]['costPerHr']:.4f}/h")
    bench.same("the image", client.get_pod(rental["id"])["imageName"], rental["image"])
    client.terminate_pod(rental["id"])
    bench.released("runpod", label)
    bench.same("pods", client.get_pods(), [])
    bench.saw("terminate_pod", "nothing is left")


def verda(bench: Bench) -> None:
    from verda import VerdaClient
    from verda.instances import OSVolume

    label = "clients-verda"
    client = VerdaClient(bench.key, bench.key, base_url=bench.addresses["verda"])
    bench.saw("balance.get", f"{client.balance.get().amount} {client.balance.get().currency}")
    kinds = client.instance_types.get()
    cheapest = min(kinds, key=lambda kind: kind.price_per_hour)
    bench.saw("instance_types.get", f"{len(kinds)}, from ${cheapest.price_per_hour}/h")
    places = client.instances.get_availabilities()
    place = next(p for p in places if cheapest.instance_type in p["availabilities"])
    bench.saw("instances.get_availabilities", f"{cheapest.instance_type} in {place['location_code']}")
    key = client.ssh_keys.create("clients", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFake clients")
    bench.same("the key", [k.id for k in client.ssh_keys.get()], [key.id])
    created = client.instances.create(
        instance_type=cheapest.instance_type,
        image="ubuntu-24.04-cuda-12.6",
        hostname=label,
        description=label,
        ssh_key_ids=[key.id],
        location=place["location_code"],
        os_volume=OSVolume(name=f"{label}-os", size=60),
    )
    rental = bench.rental("verda", label)
    bench.saw("instances.create", created.id)
    bench.same("the instance", created.id, rental["id"])
    instances = client.instances.get()
    bench.same("instances", [instance.id for instance in instances], [rental["id"]])
    bench.same("the price", instances[0].price_per_hour, rental["price_per_hour"])
    bench.saw("instances.get", f"{instances[0].description} is {instances[0].status}")
    client.instances.action(
        rental["id"], "delete", volume_ids=[instances[0].os_volume_id], delete_permanently=True
    )
    bench.released("verda", label)
    bench.same("instances", client.instances.get(), [])
    bench.saw("instances.action delete", "nothing is left")


def prime(bench: Bench) -> None:
    label = "clients-prime"
    environment = {
        "PRIME_API_BASE_URL": bench.addresses["prime"].removesuffix("/api/v1"),
        "PRIME_API_KEY": bench.key,
        "PRIME_DISABLE_VERSION_CHECK": "1",
        "COLUMNS": "200",
    }

    def ask(*words: str) -> str:
        return bench.run("prime", "--plain", *words, **environment)

    def listed() -> list:
        answer = json.loads(ask("pods", "list", "--output", "json"))
        return answer["pods"]

    offers = json.loads(ask("availability", "list", "--output", "json"))["gpu_resources"]
    bench.saw("availability list", f"{len(offers)} offers")
    words = ["--name", label, "--disk-size", "120", "--image", "ubuntu_22_cuda_12", "--yes"]
    ask("pods", "create", "--cloud-id", "gpu_1x_a6000", *words)
    rental = bench.rental("prime", label)
    bench.saw("pods create", rental["id"])
    pods = listed()
    bench.same("pods", [pod["id"] for pod in pods], [rental["id"]])
    bench.same("the label", pods[0]["name"], label)
    bench.saw("pods list", f"{pods[0]['name']} is {pods[0]['status']}")
    status = json.loads(ask("pods", "status", rental["id"], "--output", "json"))
    bench.saw("pods status", status.get("ssh") or status.get("ssh_connection") or status)
    ask("pods", "terminate", rental["id"], "--yes")
    bench.released("prime", label)
    bench.same("pods", listed(), [])
    bench.saw("pods terminate", "nothing is left")


def gpuhunt(bench: Bench) -> None:
    from gpuhunt.providers import vastai as provider

    provider.bundles_url = f"{bench.addresses['vast']}/api/v0/bundles/"
    offers = provider.VastAIProvider().get()
    query = {"type": "ondemand", "limit": 5000, "allocated_storage": 8}
    request = urllib.request.Request(
        provider.bundles_url,
        json.dumps(query).encode(),
        {"Content-Type": "application/json", "User-Agent": "clients"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        true = {str(offer["id"]): offer for offer in json.load(answer)["offers"]}
    priced = [offer for offer in offers if not offer.spot]
    if not priced:
        sys.exit("gpuhunt saw no offers")
    for offer in priced:
        row = true[offer.instance_name]
        # It prices the whole disk of the machine, unless it is asked for less.
        storage = offer.disk_size * row["storage_cost"] / 30 / 24
        bench.same(f"the price of {offer.instance_name}", offer.price, round(row["dph_base"] + storage, 5))
    bench.saw("VastAIProvider.get", f"{len(offers)} offers, all priced as they are listed")


if __name__ == "__main__":
    sys.exit(main())
