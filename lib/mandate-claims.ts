/**
 * What a team says of its own claims. Alone in its file: `app.ts` exports all of it, and of a module's own names only such
 * can be extended from outside.
 */

/** Claims of a team's own; extend by declaration merging: `declare module 'caracal-gateway' { ... }`. */
// oxlint-disable-next-line typescript/no-empty-interface -- an empty interface is what merging needs
export interface MandateClaims {}
