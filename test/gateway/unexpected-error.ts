// Preloaded into a gateway under test: SIGUSR2 throws where nobody catches.
process.once('SIGUSR2', () => {
  throw new RangeError('what nobody had thought of')
})
