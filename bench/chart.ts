// The ladder as a picture: CPU of a request by rung, as a multiple of bare reply-from's, with its spread.
import type { RungResult } from './ladder.ts'
import { BASE, WHOLE } from './rungs.ts'

const WIDTH = 860
const LABELS = 300
const ROW = 30
const BAR = 18
const TOP = 40
const RIGHT = 130
/** Legible on a light page and on a dark one. */
const COLOURS = { base: '#6b7280', whole: '#2563eb', other: '#60a5fa', ink: '#6b7280' }

/** An SVG document. */
export function chartOf(ladder: readonly RungResult[]): string {
  const most = Math.max(...ladder.map(({ cpuRatio }) => cpuRatio.max))
  const scale = (WIDTH - LABELS - RIGHT) / most
  const height = TOP + ladder.length * ROW + 10
  const rows = ladder.map(({ name, title, cpu, cpuRatio }, index) => {
    const y = TOP + index * ROW
    const colour = name === BASE ? COLOURS.base : name === WHOLE ? COLOURS.whole : COLOURS.other
    const [from, to] = [LABELS + cpuRatio.min * scale, LABELS + cpuRatio.max * scale]
    const middle = y + BAR / 2
    const figure = `${cpuRatio.median.toFixed(2)} x, ${cpu.median.toFixed(0)} us`
    return [
      `<text x="${LABELS - 10}" y="${middle + 4}" text-anchor="end">${escaped(title)}</text>`,
      `<rect x="${LABELS}" y="${y}" width="${(cpuRatio.median * scale).toFixed(1)}" height="${BAR}" fill="${colour}"/>`,
      `<line x1="${from.toFixed(1)}" y1="${middle}" x2="${to.toFixed(1)}" y2="${middle}" stroke="${COLOURS.ink}" stroke-width="2"/>`,
      `<text x="${(to + 8).toFixed(1)}" y="${middle + 4}">${figure}</text>`,
    ].join('\n')
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" font-family="sans-serif" font-size="13" fill="${COLOURS.ink}" role="img" aria-label="CPU of a request by rung, times bare reply-from">
<text x="${LABELS}" y="20">CPU of a request, times bare reply-from (line: smallest to largest round)</text>
${rows.join('\n')}
</svg>
`
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
}
