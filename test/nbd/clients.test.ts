// SPDX-License-Identifier: Apache-2.0
// `ovs nbd-serve` with the NBD clients that people use: libnbd's tools, QEMU's and fio.

import { spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { MIB } from "../../src/base/units.js";

const OVS = new URL("../../src/bin/ovs.js", import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), "ovs-clients-"));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));

// nbdsh must find the system's Python, which has libnbd's module.
const env: NodeJS.ProcessEnv = { ...process.env, PATH: `/usr/bin:${process.env.PATH}` };
delete env.NODE_OPTIONS;
delete env.NODE_V8_COVERAGE;

interface Outcome {
  code: number | null;
  output: string;
  errors: string;
}

async function run(program: string, args: string[]): Promise<Outcome> {
  // In the test's own folder: fio leaves files where it runs.
  const child = spawn(program, args, {
    env,
    cwd: folder,
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 120_000,
  });
  let output = "";
  let errors = "";
  child.stdout.on("data", (part) => {
    output += part;
  });
  child.stderr.on("data", (part) => {
    errors += part;
  });
  const [code] = (await once(child, "close")) as [number | null];
  return { code, output, errors };
}

/** Runs a client that must succeed; answers what it printed. */
async function client(program: string, ...args: string[]): Promise<string> {
  const { code, output, errors } = await run(program, args);
  if (code !== 0) throw new Error(`${program} ${args.join(" ")}: ${code}\n${output}${errors}`);
  return output;
}

/** Why a test must be skipped: a program that is missing; or false. */
function lacking(...programs: string[]): string | false {
  const missing = programs.find((name) => spawnSync("which", [name], { env }).status !== 0);
  return missing === undefined ? false : `${missing} is not installed`;
}

interface Served {
  address: string;
  uri: string;
  stop(): Promise<number | null>;
}

/** Starts `ovs nbd-serve` and waits for its line `ready`. */
async function serve(...args: string[]): Promise<Served> {
  const child = spawn(process.execPath, [OVS, "nbd-serve", ...args], { env });
  let output = "";
  let errors = "";
  child.stderr.on("data", (part) => {
    errors += part;
  });
  const closed = once(child, "close") as Promise<[number | null]>;
  const line = await new Promise<string>((resolve, reject) => {
    child.stdout.on("data", (part) => {
      output += part;
      if (output.includes("\n")) resolve(output.trim());
    });
    child.on("close", (code) => reject(new Error(`nbd-serve ended with ${code}: ${errors}`)));
  });
  const address = line.replace(/^ready /, "");
  const path = address.replace(/^unix:/, "");
  return {
    address,
    uri: path === address ? address.replace(/^tcp:/, "nbd://") : `nbd+unix:///?socket=${path}`,
    async stop() {
      child.kill("SIGTERM");
      return (await closed)[0];
    },
  };
}

t.test(
  "libnbd: nbdinfo, nbdsh and nbdcopy",
  { skip: lacking("nbdinfo", "nbdsh", "nbdcopy") },
  async (t) => {
    const served = await serve("-k", `${folder}/a.sock`, "-e", "vd0", "-D", "a disk", "memory:64M");
    const info = JSON.parse(await client("nbdinfo", "--json", served.uri)).exports[0];
    t.match(info, {
      "export-name": "vd0",
      description: "a disk",
      "export-size": 64 * MIB,
      is_read_only: false,
      can_cache: true,
      can_df: true,
      can_fast_zero: true,
      can_flush: true,
      can_fua: true,
      can_multi_conn: true,
      can_trim: true,
      can_zero: true,
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 32 * MIB,
      contexts: ["base:allocation"],
    });
    t.match(await client("nbdinfo", "--list", served.uri), /export="vd0"/);
    const script = `
import os, threading
assert h.get_size() == 64 << 20
data = os.urandom(32 << 20)
h.pwrite(data, 7); assert h.pread(len(data), 7) == data
h.pwrite(data[:5000], 4095, nbd.CMD_FLAG_FUA); assert h.pread(5000, 4095) == data[:5000]
h.trim(1 << 20, 0); h.zero(1 << 20, 1 << 20, nbd.CMD_FLAG_NO_HOLE); h.flush(); h.cache(4096, 0)
assert h.pread(2 << 20, 0) == bytes(2 << 20)
seen = []
h.block_status(64 << 20, 0, lambda name, at, list, err: seen.append((name, list)))
assert seen[0][0] == "base:allocation" and sum(seen[0][1][0::2]) == 64 << 20, seen
h.set_strict_mode(0)
for broken in (lambda: h.pread(4096, 64 << 20), lambda: h.pwrite(bytes(4096), 64 << 20),
               lambda: h.trim(1, 64 << 20), lambda: h.flush(0x80)):
    try: broken()
    except nbd.Error as error: assert error.errnum in (22, 28), error.errnum
    else: raise AssertionError("not refused")
h.pread(512, 0)
buffer = nbd.Buffer(65536)
for i in range(500):
    h.aio_pwrite(buffer, (i * 65536) % (64 << 20))
    while h.aio_in_flight() > 40: h.poll(-1)
while h.aio_in_flight() > 0: h.poll(-1)
print("all is well")
`;
    const shell = ["--base-allocation", "-u", served.uri, "-c", script];
    t.match(await client("nbdsh", ...shell), /all is well/);
    const image = `${folder}/image`;
    writeFileSync(image, Buffer.concat([randomBytes(20 * MIB), Buffer.alloc(44 * MIB)]));
    await client("nbdcopy", "--flush", image, served.uri);
    await client("nbdcopy", served.uri, `${folder}/back`);
    t.ok(readFileSync(image).equals(readFileSync(`${folder}/back`)), "nbdcopy there and back");
    t.equal(await served.stop(), 0);
  },
);

t.test(
  "QEMU: qemu-img and qemu-io, over TCP",
  { skip: lacking("qemu-img", "qemu-io") },
  async (t) => {
    const served = await serve("-t", "127.0.0.1:0", "memory:64M");
    t.match(
      await client("qemu-img", "info", "--output=json", served.uri),
      /"virtual-size": 67108864/,
    );
    const commands = [
      "write -P 0xab 0 1M",
      "write -P 0x11 12345 54321",
      "flush",
      "read -P 0x11 12345 54321",
      "write -f -P 1 1M 4k",
      "discard 0 1M",
      "read -P 0 0 1M",
      "write -z 1M 1M",
      "write -z -u 3M 1M",
      "read -P 0 1M 3M",
      "write -P 7 63M 1M",
    ];
    const io = ["-f", "raw", ...commands.flatMap((command) => ["-c", command]), served.uri];
    t.notMatch(await client("qemu-io", ...io), /fail/i);
    const image = `${folder}/qemu.qcow2`;
    const raw = `${folder}/qemu.raw`;
    writeFileSync(raw, randomBytes(10 * MIB));
    truncateSync(raw, 64 * MIB);
    await client("qemu-img", "convert", "-O", "qcow2", raw, image);
    await client("qemu-img", "convert", "-n", "-O", "raw", image, served.uri);
    t.match(await client("qemu-img", "compare", "-F", "raw", image, served.uri), /identical/);
    const map = JSON.parse(await client("qemu-img", "map", "--output=json", served.uri));
    t.match(map.at(-1), { zero: true, data: false });
    await client(
      "qemu-img",
      "bench",
      "-t",
      "none",
      "-f",
      "raw",
      "-w",
      "-d",
      "32",
      "-c",
      "5000",
      served.uri,
    );
    t.equal(await served.stop(), 0);
  },
);

t.test("fio: writes at random and verifies", { skip: lacking("fio") }, async (t) => {
  const served = await serve("-k", `${folder}/fio.sock`, "memory:64M");
  for (const [size, depth] of [
    ["4k", "32"],
    ["512-200k", "8"],
  ]) {
    await client(
      "fio",
      "--name=v",
      "--ioengine=nbd",
      `--uri=${served.uri}`,
      "--rw=randwrite",
      `--${size!.includes("-") ? "bsrange" : "bs"}=${size}`,
      `--iodepth=${depth}`,
      "--size=32M",
      "--verify=crc32c",
      "--verify_fatal=1",
      "--bs_unaligned",
    );
    t.pass(`${size} at depth ${depth}`);
  }
  t.equal(await served.stop(), 0);
});

t.test(
  "a raw file: what is written is in the file",
  { skip: lacking("nbdcopy", "qemu-io") },
  async (t) => {
    const file = `${folder}/disk.raw`;
    const image = `${folder}/source`;
    const content = Buffer.concat([randomBytes(8 * MIB), Buffer.alloc(8 * MIB + 1234)]);
    writeFileSync(image, content);
    writeFileSync(file, randomBytes(content.length));
    const served = await serve("-k", `${folder}/file.sock`, file);
    await client("nbdcopy", "--flush", image, served.uri);
    t.ok(readFileSync(file).equals(content));
    const commands = [
      "write -f -P 9 100 5000",
      "discard 1M 1M",
      "write -z 3000000 70000",
      "write -z -u 5M 1M",
    ];
    await client("qemu-io", "-f", "raw", ...commands.flatMap((text) => ["-c", text]), served.uri);
    content.fill(9, 100, 5100);
    content.fill(0, MIB, 2 * MIB);
    content.fill(0, 3_000_000, 3_070_000);
    content.fill(0, 5 * MIB, 6 * MIB);
    t.equal(await served.stop(), 0);
    t.ok(readFileSync(file).equals(content));
    t.ok(statSync(file).blocks * 512 < content.length, "holes are holes");
    const reader = await serve("-k", `${folder}/reader.sock`, "-r", file);
    t.match(await run("qemu-io", ["-f", "raw", "-c", "write 0 4k", reader.uri]), { code: 1 });
    await client("nbdcopy", reader.uri, `${folder}/copy`);
    t.ok(readFileSync(`${folder}/copy`).equals(content));
    t.equal(await reader.stop(), 0);
  },
);

t.test(
  "started by its client: on stdin, or by socket activation",
  { skip: lacking("nbdinfo", "nbdsh") },
  async (t) => {
    const command = [process.execPath, OVS, "nbd-serve"];
    t.equal(
      (await client("nbdinfo", "--size", "--", "[", ...command, "memory:3M", "]")).trim(),
      "3145728",
    );
    const list = JSON.stringify([...command, "-s", "memory:5M"]);
    const script = `h.connect_command(${list}); print(h.get_size()); h.pwrite(b"x", 1); h.shutdown()`;
    t.equal((await client("nbdsh", "-c", script)).trim(), String(5 * MIB));
  },
);

t.test("says what is wrong with its arguments", async (t) => {
  const cases: Array<[string[], number, RegExp]> = [
    [[], 2, /give one FILE/],
    [["a", "b"], 2, /give one FILE/],
    [["--nonsense", "memory:1M"], 2, /nonsense/],
    [["-t", "127.0.0.1:0", "memory:10GB"], 2, /is not a size/],
    [["-t", "127.0.0.1:0", "memory:65T"], 2, /at most 64T/],
    [["-t", "nonsense", "memory:1M"], 2, /not an address/],
    [["-k", "/no/such/folder/sock", "memory:1M"], 1, /cannot listen/],
    [["-k", `${folder}/x.sock`, `${folder}/no-such-file`], 2, /no-such-file/],
    [["-s", "-k", `${folder}/x.sock`, "memory:1M"], 2, /no other socket/],
    [["--slots", "1", "memory:1M"], 2, /from 2 to/],
    [["-s", "memory:1M"], 1, /not a stream socket/],
    [["--help"], 0, /^usage: ovs nbd-serve/],
  ];
  for (const [args, code, words] of cases) {
    const outcome = await run(process.execPath, [OVS, "nbd-serve", ...args]);
    t.equal(outcome.code, code, args.join(" "));
    t.match(outcome.output + outcome.errors, words);
    t.ok(outcome.errors.split("\n").length <= 3, "in one clear sentence");
  }
});
