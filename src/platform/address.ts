// SPDX-License-Identifier: Apache-2.0
// Addresses of services: `unix:/absolute/path` or `tcp:host:port` (an IPv6 host in brackets).

import { StorageError } from "../base/errors.js";
import type { Address } from "./network.js";

/** Longest path of a unix socket that the kernel takes (108 bytes with the closing zero). */
export const UNIX_PATH_BYTES_MAX = 107;

export type ParsedAddress =
  | { kind: "unix"; path: string }
  | { kind: "tcp"; host: string; port: number };

/** Reads an address; OVS_INVALID in words for anything else. */
export function parseAddress(address: Address): ParsedAddress {
  if (address.startsWith("unix:")) return parseUnix(address, address.slice(5));
  const match = /^tcp:(?:\[([0-9a-fA-F:.%a-z]+)\]|([^:[\]\s]+)):(\d{1,5})$/.exec(address);
  const port = match ? Number(match[3]) : Number.NaN;
  if (!match || port > 65_535) {
    throw new StorageError(
      "OVS_INVALID",
      `"${address}" is not an address: write unix:/absolute/path or tcp:host:port`,
    );
  }
  return { kind: "tcp", host: (match[1] ?? match[2])!, port };
}

function parseUnix(address: Address, path: string): ParsedAddress {
  const bytes = Buffer.byteLength(path);
  if (!path.startsWith("/") || path.includes("\0")) {
    throw new StorageError("OVS_INVALID", `"${address}": the path of a unix socket is absolute`);
  }
  if (bytes > UNIX_PATH_BYTES_MAX) {
    throw new StorageError(
      "OVS_INVALID",
      `"${address}": the path has ${bytes} bytes, a unix socket takes ${UNIX_PATH_BYTES_MAX}; ` +
        "use a shorter data folder",
    );
  }
  return { kind: "unix", path };
}

/** Writes a tcp address; IPv6 hosts get brackets. */
export function formatTcp(host: string, port: number): Address {
  return host.includes(":") ? `tcp:[${host}]:${port}` : `tcp:${host}:${port}`;
}

/** True where only processes of this machine can connect: unix sockets and loopback. */
export function isLocal(address: Address): boolean {
  const parsed = parseAddress(address);
  if (parsed.kind === "unix") return true;
  return (
    parsed.host === "localhost" ||
    parsed.host === "::1" ||
    /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(parsed.host)
  );
}
