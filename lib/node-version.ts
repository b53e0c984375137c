/**
 * Tells a Node.js that is too old, before anything that needs a newer one is loaded.
 */

/** The oldest Node.js that is supported, as `engines` in package.json has it. */
export const OLDEST_NODE = '24.12'

/**
 * Whether a version of Node.js is supported.
 *
 * @param version as `process.versions.node` has it
 */
export function isSupportedNode(version: string): boolean {
  const [oldestMajor = 0, oldestMinor = 0] = OLDEST_NODE.split('.').map(Number)
  const [major = 0, minor = 0] = version.split('.').map(Number)
  return major > oldestMajor || (major === oldestMajor && minor >= oldestMinor)
}
