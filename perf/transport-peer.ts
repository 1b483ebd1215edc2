// SPDX-License-Identifier: Apache-2.0
// The transport's peer: what one would write with node:net alone. Same command lines as
// transport-load.js, same work, without checksums, deadlines or limits.
//
//   frame: | bytes that follow the header, u32 | token, u32 | wanted bytes, u32 | payload |

import net from "node:net";
import { assert } from "../src/base/assert.js";
import { MIB } from "../src/base/units.js";

const HEADER_BYTES = 12;
const [role, path, bytesText, depthText, secondsText] = process.argv.slice(2);
assert(role !== undefined && path !== undefined, "ROLE SOCKET …");

function cpuSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

/** Calls back for every frame; its payload was copied to `into` (a function of the token). */
function parse(
  socket: net.Socket,
  into: (token: number) => Buffer,
  onFrame: (token: number, wanted: number, bytes: number) => void,
): void {
  const header = Buffer.alloc(HEADER_BYTES);
  let have = 0;
  let left = 0;
  let target: Buffer = header;
  socket.on("data", (data) => {
    let at = 0;
    socket.cork();
    while (at < data.length) {
      if (have < HEADER_BYTES) {
        const count = Math.min(HEADER_BYTES - have, data.length - at);
        data.copy(header, have, at, at + count);
        at += count;
        have += count;
        if (have < HEADER_BYTES) break;
        left = header.readUInt32LE(0);
        target = into(header.readUInt32LE(4));
      }
      const total = header.readUInt32LE(0);
      const count = Math.min(left, data.length - at);
      data.copy(target, total - left, at, at + count);
      at += count;
      left -= count;
      if (left > 0) break;
      have = 0;
      onFrame(header.readUInt32LE(4), header.readUInt32LE(8), total);
    }
    socket.uncork();
  });
}

function frame(bytes: number, token: number, wanted: number): Buffer {
  const header = Buffer.allocUnsafe(HEADER_BYTES);
  header.writeUInt32LE(bytes, 0);
  header.writeUInt32LE(token, 4);
  header.writeUInt32LE(wanted, 8);
  return header;
}

function serve(): void {
  const content = Buffer.alloc(64 * MIB, 7);
  const sink = Buffer.alloc(64 * MIB);
  let served = 0;
  const server = net.createServer((socket) => {
    parse(
      socket,
      () => sink,
      (token, wanted) => {
        socket.write(frame(wanted, token, 0));
        const at = (served++ * 4096) % (32 * MIB);
        if (wanted > 0) socket.write(content.subarray(at, at + wanted));
      },
    );
    socket.on("end", () => socket.end());
    socket.on("error", () => socket.destroy());
  });
  server.listen(path);
  process.once("SIGTERM", () => {
    console.log(cpuSeconds());
    process.exit(0);
  });
}

async function load(bytes: number, depth: number, seconds: number): Promise<void> {
  const socket = net.connect(path!);
  await new Promise((resolve) => socket.once("connect", resolve));
  const buffers = Array.from({ length: depth }, () => Buffer.alloc(bytes, 9));
  const begin = performance.now();
  const cpu = cpuSeconds();
  const end = begin + seconds * 1000;
  let now = begin;
  let done = 0;
  let running = depth;
  await new Promise<void>((resolve) => {
    const next = (token: number): void => {
      const isPut = role === "put";
      socket.write(frame(isPut ? bytes : 0, token, isPut ? 0 : bytes));
      if (isPut) socket.write(buffers[token]!);
    };
    parse(
      socket,
      (token) => buffers[token]!,
      (token) => {
        done++;
        if ((done & 15) === 0) now = performance.now();
        if (now < end) next(token);
        else if (--running === 0) resolve();
      },
    );
    for (let token = 0; token < depth; token++) next(token);
  });
  const elapsed = (performance.now() - begin) / 1000;
  console.log(JSON.stringify({ value: done / elapsed, cpuSeconds: cpuSeconds() - cpu }));
  socket.destroy();
}

if (role === "serve") serve();
else await load(Number(bytesText), Number(depthText), Number(secondsText));
