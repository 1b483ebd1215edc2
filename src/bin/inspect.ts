// SPDX-License-Identifier: Apache-2.0
// `ovs inspect FILE`.

export async function inspectMain(
  file: string,
  json: boolean,
  print: (text: string) => void,
): Promise<number> {
  print(json ? JSON.stringify({ file }) : file);
  return 1;
}
