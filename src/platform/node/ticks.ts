// SPDX-License-Identifier: Apache-2.0
// Runs steps so that between two of them every promise that can settle has settled. Node drains
// the queue of microtasks after each immediate; they are made a hundred at a time because a round
// of the event loop costs more than a step.

const AT_ONCE = 100;

/** Runs `step` until it answers false. What it throws rejects. */
export async function runInTicks(step: () => boolean): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    let over = false;
    let left = 0;
    const tick = (): void => {
      left--;
      if (over) return;
      try {
        if (!step()) {
          over = true;
          resolve();
        }
      } catch (error) {
        over = true;
        reject(error);
      }
      if (!over && left === 0) more();
    };
    const more = (): void => {
      left = AT_ONCE;
      for (let i = 0; i < AT_ONCE; i++) setImmediate(tick);
    };
    more();
  });
}
