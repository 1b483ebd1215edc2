// SPDX-License-Identifier: Apache-2.0
// Asks whether an address can be listened on, before anything is started.

import { connect, createServer } from "node:net";

/** null when `address` (`unix:PATH`, `tcp:HOST:PORT`) is free; else why not, in words. */
export async function addressTaken(address: string): Promise<string | null> {
  if (address.startsWith("unix:")) return await socketTaken(address.slice(5));
  const at = address.lastIndexOf(":");
  const host = address.slice(4, at).replace(/^\[(.*)\]$/, "$1");
  return await new Promise((resolve) => {
    const server = createServer();
    server.once("error", (error: NodeJS.ErrnoException) => {
      const words =
        error.code === "EADDRINUSE"
          ? "is in use by another program"
          : `cannot be used: ${error.message}`;
      resolve(`${address} ${words}`);
    });
    server.listen({ host, port: Number(address.slice(at + 1)), exclusive: true }, () => {
      server.close(() => resolve(null));
    });
  });
}

/** A socket file that nobody answers on is stale, and will be replaced. */
async function socketTaken(path: string): Promise<string | null> {
  return await new Promise((resolve) => {
    const socket = connect(path);
    // A process that is just dying may leave a connect without an answer.
    socket.setTimeout(1000, () => {
      socket.destroy();
      resolve(`unix:${path} is held by a program that does not answer`);
    });
    socket.once("connect", () => {
      socket.destroy();
      resolve(`unix:${path} is in use by another program`);
    });
    socket.once("error", () => resolve(null));
  });
}
