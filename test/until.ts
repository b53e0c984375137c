// Waits for what has no event to wait for.

/**
 * Resolves once the condition holds, looking every 5 ms.
 *
 * @param milliseconds how long to wait at most
 * @throws Error when the time is over
 */
export async function until(
  condition: () => boolean | Promise<boolean>,
  milliseconds = 5_000,
): Promise<void> {
  const deadline = performance.now() + milliseconds
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`not so within ${milliseconds} ms`)
    await new Promise(resolve => setTimeout(resolve, 5))
  }
}

/** Resolves once a figure has stood still for 50 ms: nobody takes or gives any more. */
export async function stalled(figure: () => number, milliseconds = 5_000): Promise<void> {
  let last = figure()
  let since = performance.now()
  await until(() => {
    const now = figure()
    if (now !== last) since = performance.now()
    last = now
    return performance.now() - since >= 50
  }, milliseconds)
}
