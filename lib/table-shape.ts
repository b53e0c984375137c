// Guarantees that a table which does not fit is told by name: what is missing, of which type, or not to be read.

/** What a column must hold; `any`: whatever it is. */
export type ColumnKind = 'text' | 'timestamp' | 'jsonb' | 'any'

/** A column as the catalogue has it. */
export interface FoundColumn {
  readonly name: string
  /** Name of the type, of the one below in the case of a domain. */
  readonly type: string
  /** `pg_type.typcategory`. */
  readonly category: string
  /** Whether the role may select it. */
  readonly readable: boolean
}

/**
 * What keeps a table from being read as it must be, a sentence each; empty: nothing does.
 *
 * @param found the table's columns; none: there is no such table
 */
export function tableProblems(
  table: string,
  columns: Readonly<Record<string, ColumnKind>>,
  found: readonly FoundColumn[],
): string[] {
  if (found.length === 0) return [`there is no table ${table} on the role's search_path`]
  return Object.entries(columns).flatMap(([name, kind]) => {
    const column = found.find(it => it.name === name)
    if (column === undefined) return [`there is no column ${table}.${name}`]
    if (!FITS[kind](column)) return [`the column ${table}.${name} is ${column.type}, not ${kind}`]
    return column.readable ? [] : [`the role may not select ${table}.${name}; grant it`]
  })
}

const FITS: Readonly<Record<ColumnKind, (column: FoundColumn) => boolean>> = {
  // Strings of any kind, and enumerations, which compare like them.
  text: ({ category }) => category === 'S' || category === 'E',
  timestamp: ({ type }) => type === 'timestamptz' || type === 'timestamp',
  jsonb: ({ type }) => type === 'jsonb' || type === 'json',
  any: () => true,
}

/** Finds the columns of the table `$1`, rows as {@link FoundColumn}; none when the search path leads to no such table. */
export const COLUMNS_OF_TABLE = `
  select a.attname::text as name, t.typname::text as type, t.typcategory::text as category,
    has_column_privilege(a.attrelid, a.attnum, 'select') as readable
  from pg_catalog.pg_attribute a
  join pg_catalog.pg_type d on d.oid = a.atttypid
  join pg_catalog.pg_type t on t.oid = case d.typtype when 'd' then d.typbasetype else d.oid end
  where a.attrelid = to_regclass(quote_ident($1)) and a.attnum > 0 and not a.attisdropped`
