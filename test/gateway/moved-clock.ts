// Preloaded into a gateway under test: its steady clock is ahead by what the file MOVED_CLOCK says.
import { readFileSync } from 'node:fs'

const file = process.env['MOVED_CLOCK']
if (file === undefined) throw new Error('MOVED_CLOCK must name a file')
const real = performance.now.bind(performance)
performance.now = () => real() + Number(readFileSync(file, 'utf8'))
