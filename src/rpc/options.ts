// SPDX-License-Identifier: Apache-2.0
// What a client is told, and what it gives back.

import type { Address } from "../platform/network.js";
import type { Identity, Wanted } from "./hello.js";

export interface CallOptions {
  timeoutMs: number;
  /** 0 normal, 1 background. */
  priority?: number;
}

/** An answer that was a success. */
export interface Answer {
  status: number;
  /** A copy: belongs to the caller. */
  meta: Uint8Array;
  /**
   * Arena offset of a payload that did not go to `into`, 0 for none. Gives: `network.release` it.
   */
  payload: number;
  payloadBytes: number;
}

/** Calls that go out before all others, while a connection is being set up. */
export type EarlyCall = (
  operation: number,
  meta: Uint8Array | null,
  timeoutMs: number,
) => Promise<Answer>;

export interface RpcClientOptions {
  address: Address;
  /** Who calls. */
  self: Identity;
  /** Whom it must be. */
  wants: Wanted;
  /** Calls that may be in flight and waiting together; more are refused with OVS_BUSY. */
  callsMax?: number;
  /**
   * Calls in flight at a time; the others wait. Below the server's limit, so that pings get
   * through.
   */
  inFlightMax?: number;
  connectTimeoutMs?: number;
  /** A silent connection is asked for a sign of life after this, and given up after three. */
  heartbeatMs?: number;
  backoffMsMin?: number;
  backoffMsMax?: number;
  /**
   * What calls do while there is no connection after a failed attempt: fail at once, or wait until
   * their deadline.
   */
  whileDown?: "fail" | "wait";
  /**
   * Runs after the hello and before any other call of a new connection; a rejection ends the
   * connection.
   */
  handshake?: (call: EarlyCall) => Promise<void>;
  /** After a connection was greeted and its handshake is done. */
  onUp?: () => void;
  /** After a connection that was up is lost. */
  onDown?: (reason: string) => void;
  /**
   * One-way frames of the server. `meta` valid during the call only; gives the payload: release it.
   */
  onNotice?: (operation: number, meta: Uint8Array, payload: number, payloadBytes: number) => void;
}
