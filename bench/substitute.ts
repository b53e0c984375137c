// Runs the built gateway with some of its modules replaced by a benchmark's: load it with `--import`. BENCH_REPLACED is a
// JSON object: a module of `dist/` by its path, or a package that it imports, and the file of this folder in its place.
//
// What such a file imports of the gateway's sources is taken from `dist/`, so that there is one of each in the process,
// and so that the one it replaces is at hand for it.
import { registerHooks } from 'node:module'

const HERE = new URL('.', import.meta.url).href
const ROOT = new URL('../', HERE).href
const DIST = new URL('dist/', ROOT).href
const replaced: Readonly<Record<string, string>> = JSON.parse(process.env['BENCH_REPLACED'] ?? '{}')

registerHooks({
  resolve(specifier, context, nextResolve) {
    const resolved = nextResolve(specifier, context)
    const { url } = resolved
    const ours = context.parentURL?.startsWith(HERE) === true
    if (ours && url.startsWith(ROOT) && !url.startsWith(HERE) && url.endsWith('.ts')) {
      return { ...resolved, url: `${DIST}${url.slice(ROOT.length, -3)}.js`, format: 'module' }
    }
    const name = url.startsWith(DIST) ? url.slice(DIST.length) : specifier
    const substitute = context.parentURL?.startsWith(DIST) === true ? replaced[name] : undefined
    if (substitute === undefined) return resolved
    return { ...resolved, url: `${HERE}${substitute}`, format: 'module-typescript' }
  },
})
